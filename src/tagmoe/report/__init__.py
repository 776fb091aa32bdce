"""What every HTML page shares: style, colours, numbers, figures and macros."""
