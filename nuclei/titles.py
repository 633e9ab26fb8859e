"""What networks and methods are called where people read of them."""

TITLES = {"cnn": "CNN", "resnet": "ResNet18"}


def method_title(method: str) -> str:
    """Return the name of a method of `attribution` as text: occlusion_20, occlusion 20."""
    names = {"gradient_shap": "GradientSHAP", "layer_cam": "LayerCAM"}
    return names.get(method, method.replace("_", " "))
