"""Image classification: folders of images, augmentation, loss, scores and pictures."""
