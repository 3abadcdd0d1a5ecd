"""The page: the accordion and its presets, pasted texts, the settings and the axes of the X/Y/Z plot."""
