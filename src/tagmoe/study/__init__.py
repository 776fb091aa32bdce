"""The preference study (paper 4.6, Fig. 7): plan it, build blinded pictures, serve the page, analyze the answers."""
