"""The verb `jtl lr-find`: which learning rate to train with, from a sweep over all of them."""
