"""The web page of the images server: Gradio in front of the same queue, limits and painter as the API."""
