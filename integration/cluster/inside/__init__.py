"""Programs that run in the pods, given to Python as text: the image has nothing of the tests."""
