"""What a run leaves on disk: its folder, its logs, its checkpoints, its compiled programs."""
