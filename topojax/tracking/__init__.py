"""What a run tells: events in words, the console, TensorBoard and MLflow."""
