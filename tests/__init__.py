"""The tests. `unit/` mirrors the package, `spec/` is the readable reference, the files here look at the tree as a whole."""
