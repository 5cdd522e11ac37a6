"""The laws that a reader may rely on everywhere, held by machine: `python -m tools.tidy`, and `tests/test_tidy.py`.

One module a theme: `layers` (who may import whom), `fences` (what may be used only in one place), `shape` (lengths,
docstrings, excepts), `compiled` (the habits of Cython files), `words` (one word a concept, nothing of one machine).
`source` reads files, `ratchet` lists the exceptions. A rule is a function from sources to violations, without state, so
that a test can feed it a planted one.
"""
