"""Where records come from: one file a dataset, each reading the files that its authors published."""
