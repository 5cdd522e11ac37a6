"""The readable reference: what the compiled core does, in plain Python, and the tests that hold both to one truth."""
