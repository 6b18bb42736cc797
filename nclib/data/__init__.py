"""The data sets: sources of images, composition of several labels, splits, batches on the device, augmentation."""
