"""What a user does in a panel, for the tests of several modules."""


def pick(selector, text):
    """Choose an entry of a QComboBox by its text."""
    index = selector.findText(text)
    assert index >= 0, [selector.itemText(i) for i in range(selector.count)]
    selector.setCurrentIndex(index)
    selector.activated(index)


def choose_second_model(widget, path):
    """Choose a file as the second network, or none (""), as its list offers it."""
    from host import qt

    if path:
        qt.replies.append(str(path))
    pick(widget.ui.secondModelSelector, "From file..." if path else "None")


def without_data(node):
    """A node as a scene opens it that was saved without its data."""
    import vtk

    if node.IsA("vtkMRMLTableNode"):
        node.SetAndObserveTable(vtk.vtkTable())
    elif node.IsA("vtkMRMLVolumeNode"):
        node.SetAndObserveImageData(None)
    elif node.IsA("vtkMRMLTextNode"):
        node.SetText("")
