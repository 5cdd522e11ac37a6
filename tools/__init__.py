"""What the maintainers run by hand, from `make` or from a test. No part of the package, and imported by none of it."""
