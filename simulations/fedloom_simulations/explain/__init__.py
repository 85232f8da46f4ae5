"""`fedloom explain`: what a model looks at, and what each client gave it."""
