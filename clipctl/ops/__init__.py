"""What can be done with runs, one module a use case. `execute` is the one path of side effects; `read` only looks."""
