"""A page on the endpoint, made with gradio: drop a clip, see the frames that the model sees, and talk about it."""
