"""The tasks: each one defines its model, record columns, loss, validation and description."""
