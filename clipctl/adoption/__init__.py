"""An experiment of open_clip_train's as a run of ours: its options, its past, its checkpoints. Nothing is written."""
