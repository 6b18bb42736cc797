"""Layer by layer through a ResNet of torchvision: how the classes separate on the way."""

import torchvision
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Grayscale, ToTensor

from nclib.collapse import measure_collapse

model = torchvision.models.resnet18(num_classes=10)  # with the weights of yours
images = torchvision.datasets.MNIST("data", download=True, transform=Compose([Grayscale(3), ToTensor()]))
loader = DataLoader(images, batch_size=256, shuffle=True)

found = measure_collapse(model, loader, layers=["layer1", "layer2", "layer3", "layer4"], max_samples=2048)
print(found.table()[list(found.layers)].dropna())
found.plot()[-1].figure.savefig("layers.png")
