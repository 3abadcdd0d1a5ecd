"""The WebUI edge: the only code that knows AUTOMATIC1111's WebUI, Forge and gradio.

`fields`, `pictures`, `files`, `infotext`, `preprocessing` and `injection` know no host, so they are tested without one.
`host` is the one door to the WebUI's own modules for the rest.
"""
