"""The command line: `disttrain` and `kubectl disttrain`. It renders what the SDK says, and nothing else."""
