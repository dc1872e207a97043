"""An ONNX graph as one C99 file: no heap, no library but libc's mathematics, one arena that the caller provides."""
