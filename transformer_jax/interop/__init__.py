"""Other programs' formats ↔ a workdir: one module per format, which imports that library itself.

May use every room below training and training itself; must not know the modes that call it.
"""
