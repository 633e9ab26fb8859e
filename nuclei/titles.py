"""What things are called where people read of them."""

TITLES = {"cnn": "CNN", "resnet": "ResNet18"}
