"""Active checks: each selected pod is asked once per period, by ping, arping or curl; one thread asks all of them."""
