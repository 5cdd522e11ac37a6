"""Shipped for tests, ours and those of users: simulated clock, network and disk, and checkers. Nothing else imports it."""
