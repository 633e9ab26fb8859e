"""What is classified, and what networks and methods are called where people read of them."""

CLASSES = ("normal epithelial", "cancer epithelial", "muscle", "immune leukocyte")

SIDE = 100  # pixels a side of a crop

MPP = 0.25  # microns a pixel of every crop that a network learns from: 40x

TITLES = {"cnn": "CNN", "resnet": "ResNet18"}


def method_title(method: str) -> str:
    """Return the name of a method of `attribution` as text: occlusion_20, occlusion 20."""
    names = {"gradient_shap": "GradientSHAP", "grad_cam": "Grad-CAM"}
    return names.get(method, method.replace("_", " "))
