"""Tests on real kernels: the virtual machines (`vm`), the tools tests are made of (`lib`), and the tests."""
