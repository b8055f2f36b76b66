"""What is trained: each task says its model, record columns, loss, validation and description."""
