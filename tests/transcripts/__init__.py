"""Text files that say what a few replicas do, command by command, and the small interpreter that runs them."""
