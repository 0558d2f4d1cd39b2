"""What operator and runtime agree on: names, labels, environment, messages, exit codes. Standard library only."""
