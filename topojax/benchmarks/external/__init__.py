"""Numbers from outside the package's own tasks, beside other libraries'."""
