//! What the reader makes of images, good and bad.
