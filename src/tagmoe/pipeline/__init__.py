"""Drawing and editing: the pipeline, its parts and folders, LoRA, the authors' release, loading into little memory."""
