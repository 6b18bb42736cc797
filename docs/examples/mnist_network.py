"""A network on MNIST, measured end to end: training, held-out and out-of-distribution images."""

import torch
import torchvision

from nclib.collapse import measure_collapse

train, test = (torchvision.datasets.MNIST("data", train=part, download=True) for part in (True, False))
layers = torch.nn.Flatten(), torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
model = torch.nn.Sequential(*layers)

optimizer = torch.optim.Adam(model.parameters())  # or load the weights of yours
for rows in torch.randperm(len(train)).split(128):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(train.data[rows] / 255), train.targets[rows]).backward()
    optimizer.step()

held_out, noise = (test.data / 255, test.targets), torch.rand(1000, 28, 28)
found = measure_collapse(model, (train.data / 255, train.targets), test=held_out, ood=noise)
print(found.table())
