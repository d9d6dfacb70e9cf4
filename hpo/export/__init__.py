"""A trial's weights as a model of their own: written in timm's form, compared, opened again, used. Torch side, no Ray.

source   which weights, and images to compare by      timm_form   MODEL/: the form that plain timm opens
check    the same answers in a clean process          graph       ONNX and torch.export beside it
card     MODEL/README.md                              model       an exported model at work
images   pictures to predict or to judge by           scores      metrics with their uncertainty
"""
