"""PID 1 of a worker pod: starts ranks, watches them, tells the operator. Never imports torch."""
