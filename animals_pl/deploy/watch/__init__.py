"""Watch a folder, a video or a stream, and raise alerts. Needs numpy, Pillow, onnxruntime; OpenCV for videos."""
