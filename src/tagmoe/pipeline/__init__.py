"""Generate and edit pictures: the pipeline, its components and folders, LoRA, the authors' release, memory plans."""
