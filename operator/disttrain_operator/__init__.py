"""The operator: ears (handlers), a queue, a pure planner, and a thin shell that acts."""
