"""Real processes on real sockets: killed, stopped, cut off, and judged by what they had acknowledged."""
