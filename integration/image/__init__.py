"""The image: built without a registry, and judged as a container sees it."""
