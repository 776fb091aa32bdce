"""Where outputs come from: any `tagmoe.editor.Editor`, a folder of ready outputs, and the anchors of every table."""
