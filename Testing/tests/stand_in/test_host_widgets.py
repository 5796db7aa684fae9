"""The host's ctk widgets do what CTK's do.

This is asked of limits, exact values, and which signals come and in which order.
"""

import host
import pytest


@pytest.fixture(autouse=True)
def running(scene):
    """Every test here has the host."""


def heard(widget, *signals):
    """A list that fills with (signal's name, arguments...) as they come."""
    came = []
    for signal in signals:
        name = signal.split("(")[0]
        widget.connect(signal, lambda *arguments, name=name: came.append((name, *arguments)))
    return came


@pytest.mark.parametrize("kind", ["ctkDoubleSpinBox", "ctkDoubleSlider", "ctkSliderWidget"])
def test_a_number_stays_exact_and_within_its_limits(kind):
    import ctk

    widget = getattr(ctk, kind)()
    came = heard(widget, "valueChanged(double)")
    widget.minimum, widget.maximum = -1.0, 1.0
    widget.value = 0.123456  # more digits than are shown
    assert widget.value == 0.123456
    widget.value = 0.123456
    widget.setValue(7)
    assert widget.value == 1.0
    widget.maximum = 0.5
    assert widget.value == 0.5
    widget.minimum = 2.0  # takes the maximum along
    assert (widget.minimum, widget.maximum, widget.value) == (2.0, 2.0, 2.0)
    assert came == [("valueChanged", v) for v in (0.123456, 1.0, 0.5, 2.0)]


def test_what_is_typed_has_the_decimals_that_are_shown():
    import ctk
    from PySide6 import QtWidgets

    box = ctk.ctkDoubleSpinBox()
    came = heard(box, "valueChanged(double)", "decimalsChanged(int)", "editingFinished()")
    box.value, box.suffix = 1.23456, " HU"
    assert box.cleanText == "1.23"
    box.setDecimals(3)
    assert box.cleanText == "1.235" and box.value == 1.23456
    box.stepUp()
    assert box.value == 2.235
    box.findChild("QDoubleSpinBox").setValue(5.5555)
    box.findChild("QDoubleSpinBox").editingFinished.emit()
    assert isinstance(box.findChild("QDoubleSpinBox"), QtWidgets.QDoubleSpinBox)
    assert came == [
        ("valueChanged", 1.23456),
        ("decimalsChanged", 3),
        ("valueChanged", 2.235),
        ("valueChanged", 5.556),
        ("editingFinished",),
    ]


def drag(widget, *fractions):
    """Drag the slider inside a widget through fractions of its length and let it go."""
    inner = widget.findChild("QSlider")
    inner.setSliderDown(True)
    for fraction in fractions:
        inner.setSliderPosition(round(fraction * inner.maximum()))
    inner.setSliderDown(False)


@pytest.mark.parametrize("tracking", [True, False])
def test_a_dragged_slider_goes_in_steps_and_tracks_if_it_shall(tracking):
    import ctk

    plain, boxed = ctk.ctkDoubleSlider(), ctk.ctkSliderWidget()
    for widget in (plain, boxed):
        widget.minimum, widget.maximum, widget.singleStep, widget.tracking = -10, 10, 0.5, tracking
    of_plain = heard(
        plain, "sliderPressed()", "sliderMoved(double)", "valueChanged(double)", "sliderReleased()"
    )
    of_boxed = heard(boxed, "valueIsChanging(double)", "valueChanged(double)")
    drag(plain, 0.61, 0.862)
    drag(boxed, 0.61, 0.862)
    assert plain.value == boxed.value == plain.sliderPosition == 7.0
    follow = [[("valueChanged", v)] if tracking else [] for v in (2.0, 7.0)]
    assert of_plain == [
        ("sliderPressed",),
        ("sliderMoved", 2.0),
        *follow[0],
        ("sliderMoved", 7.0),
        *follow[1],
        *([] if tracking else [("valueChanged", 7.0)]),
        ("sliderReleased",),
    ]
    assert of_boxed == (
        [("valueChanged", 2.0), ("valueChanged", 7.0)]
        if tracking
        else [("valueIsChanging", 2.0), ("valueIsChanging", 7.0), ("valueChanged", 7.0)]
    )
    boxed.reset()
    assert boxed.value == 0.0


def test_new_decimals_of_a_slider_tell_its_value_again():
    import ctk

    slider = ctk.ctkSliderWidget()
    slider.value = 4.25
    came = heard(slider, "valueChanged(double)", "decimalsChanged(int)")
    slider.decimals = 1
    assert came == 2 * [("valueChanged", 4.25), ("decimalsChanged", 1)]
    slider.decimals = 1
    assert came[4:] == [("valueChanged", 4.25), ("decimalsChanged", 1)] and slider.value == 4.25


def test_a_step_wider_than_the_range_is_not_taken(capsys):
    import ctk

    for slider in (ctk.ctkSliderWidget(), ctk.ctkDoubleSlider()):
        slider.maximum = 1
        slider.singleStep = 5
        assert slider.singleStep == 1 and "out of the bounds" in capsys.readouterr().err
        slider.maximum, slider.singleStep = 10, 5
        assert slider.singleStep == 5
    box = ctk.ctkDoubleSpinBox()
    box.maximum, box.singleStep = 1, 5
    assert box.singleStep == 5


def test_without_tracking_a_slider_says_that_it_changes_before_it_tells():
    import ctk

    slider = ctk.ctkSliderWidget()
    slider.tracking = False
    came = heard(slider, "valueIsChanging(double)", "valueChanged(double)")
    slider.value = 3
    slider.maximum = 2
    assert came == [
        (name, value) for value in (3, 2) for name in ("valueIsChanging", "valueChanged")
    ]


def test_of_a_range_slider_the_other_end_gives_way_and_in_a_range_widget_it_holds():
    import ctk

    slider, widget = ctk.ctkDoubleRangeSlider(), ctk.ctkRangeWidget()
    for ends in (slider, widget):
        came = heard(
            ends,
            "rangeChanged(double,double)",
            "valuesChanged(double,double)",
            "minimumValueChanged(double)",
            "maximumValueChanged(double)",
        )
        ends.setRange(-1, 1)
        ends.setValues(0.75, -0.25)
        assert came == [
            ("valuesChanged", 0, 1),
            ("maximumValueChanged", 1),
            ("rangeChanged", -1, 1),
            ("valuesChanged", -0.25, 0.75),
            ("minimumValueChanged", -0.25),
            ("maximumValueChanged", 0.75),
        ]
        ends.minimumValue = 0.9
    assert (slider.minimumValue, slider.maximumValue) == (0.9, 0.9)
    assert (widget.minimumValue, widget.maximumValue) == (0.75, 0.75)
    slider.maximumValue, widget.maximumValue = -0.5, -0.5
    assert (slider.minimumValue, slider.maximumValue) == (-0.5, -0.5)
    assert (widget.minimumValue, widget.maximumValue) == (0.75, 0.75)
    widget.reset()
    assert (widget.minimumValue, widget.maximumValue) == (-1, 1)
    drag(slider, 0.0)
    assert slider.minimumValue == -1


@pytest.fixture(params=["ctkCollapsibleButton", "ctkCollapsibleGroupBox"])
def section(request):
    """A section with three labels, of which the last is hidden: (section, its window, labels)."""
    import ctk
    import qt

    window = qt.QWidget()
    made = getattr(ctk, request.param)(window)
    qt.QVBoxLayout(window).addWidget(made)
    layout, labels = (
        qt.QVBoxLayout(made),
        [qt.QLabel(text) for text in ("first", "second", "third")],
    )
    for label in labels:
        layout.addWidget(label)
    labels[2].setVisible(False)
    yield made, window, labels
    window.hide()


def hidden(labels):
    return [label.isHidden() for label in labels]


def test_a_section_that_opens_shows_what_its_panel_shows(section):
    made, window, labels = section
    window.show()
    assert not made.collapsed and made.checked and hidden(labels) == [False, False, True]
    made.collapsed = True
    assert not made.checked and hidden(labels) == [True, True, True]
    made.checked = True
    assert not made.collapsed and hidden(labels) == [False, False, True]


def test_what_changes_in_a_closed_section_is_seen_when_it_opens(section):
    import qt

    made, window, labels = section
    window.show()
    made.collapsed = True
    labels[1].setVisible(False)
    labels[2].setVisible(True)
    late = qt.QLabel("late", made)
    late.setVisible(True)
    assert hidden([*labels, late]) == [True, True, True, True]
    made.collapsed = False
    assert hidden([*labels, late]) == [False, True, False, False]


def test_a_section_hides_nothing_before_it_is_first_shown(section):
    made, window, labels = section
    made.collapsed = True
    assert hidden(labels) == [False, False, True]
    window.show()
    assert hidden(labels) == [True, True, True]


def test_paths_are_typed_or_browsed():
    import ctk
    import qt

    file, folder = ctk.ctkPathLineEdit(), ctk.ctkPathLineEdit()
    folder.filters = ctk.ctkPathLineEdit.Dirs
    came = heard(file, "currentPathChanged(QString)")
    file.setCurrentPath("/a/model.safetensors")
    qt.replies += ["/b/other.safetensors", "", "/models"]
    file.browse()
    file.browse()  # cancelled
    folder.findChild("QToolButton").click()
    assert came == [
        ("currentPathChanged", "/a/model.safetensors"),
        ("currentPathChanged", "/b/other.safetensors"),
    ]
    assert folder.currentPath == "/models"
    assert [d["class"] for d in qt.dialogs] == [
        *["QFileDialog.getOpenFileName"] * 2,
        "QFileDialog.getExistingDirectory",
    ]


@pytest.mark.parametrize(
    ("filters", "told", "not_told"),
    [
        ((), ["/a/b", "x"], [""]),
        (
            ("NetInversion model (*.safetensors)",),
            ["/nowhere/a.safetensors", "/a.safetensor"],
            ["", "/a/b", "/a.pt", "/a.safetensors.zip"],
        ),
        (("Volume (*.nii.gz *.nrrd)",), ["/a.nii", "/a.nrrd"], ["", "/a.nii.gz", "/a.mha"]),
    ],
)
def test_a_path_is_told_only_if_the_name_filters_let_it_through(filters, told, not_told):
    import ctk

    edit = ctk.ctkPathLineEdit()
    edit.nameFilters = filters
    came = heard(edit, "currentPathChanged(QString)", "validInputChanged(bool)")
    for text in [*told, *not_told]:
        edit.currentPath = text
    assert edit.currentPath == not_told[-1]
    changes = [("currentPathChanged", text) for text in told]
    assert came == [
        changes[0],
        ("validInputChanged", True),
        *changes[1:],
        ("validInputChanged", False),
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, 3 < 4", "plain, 3 < 4"),
        ("a <b>bold</b> word", "a bold word"),
        ("<b>CT", "CT"),
        ("<nothing>", "<nothing>"),
        ("a\n<b>below</b>", "a\n<b>below</b>"),
        ("3 &lt; 4", "3 < 4"),
        ("one<br>two", "one\ntwo"),
    ],
)
def test_what_looks_like_html_is_html_in_a_label(text, shown):
    import qt

    label, plain = qt.QLabel(text), qt.QLabel(text)
    plain.textFormat = qt.Qt.PlainText
    assert host.shown_text(text) == shown
    # The label itself agrees: as plain text it looks otherwise, where HTML is taken for it.
    same = label.grab().toImage() == plain.grab().toImage()
    assert same == (shown == text)


def test_a_directory_button_shows_and_tells_its_folder(tmp_path):
    import ctk
    import qt

    button = ctk.ctkDirectoryButton()
    came = heard(button, "directorySelected(QString)", "directoryChanged(QString)")
    assert button.directory == "."
    qt.replies += [str(tmp_path), ""]
    button.findChild("QPushButton").click()
    button.browse()  # cancelled
    button.directory = f"{tmp_path}/x/.."  # the same
    assert button.directory == str(tmp_path) == button.findChild("QPushButton").text()
    assert came == [
        ("directorySelected", str(tmp_path)),
        ("directoryChanged", str(tmp_path)),
        ("directorySelected", str(tmp_path)),
    ]
    button.text = "Cohort"
    assert button.findChild("QPushButton").text() == "Cohort"


def test_a_colour_is_picked_by_pressing():
    import ctk
    import qt

    button = ctk.ctkColorPickerButton("bone")
    came = heard(button, "colorChanged(QColor)", "colorNameChanged(QString)")
    assert button.color.name() == "#000000"
    qt.replies += [qt.QColor("#ff8800"), qt.QColor()]
    button.click()
    button.click()  # cancelled
    button.setColor(qt.QColor("#ff8800"))
    assert [(name, *(a.name() for a in rest)) for name, *rest in came] == [
        ("colorChanged", "#ff8800")
    ]
    assert not button.checked
    picture = button.grab().toImage()
    assert any(
        picture.pixelColor(x, y).name() == "#ff8800"
        for x in range(picture.width())
        for y in range(picture.height())
    )


def test_the_box_of_a_checkable_button_makes_it_a_toggle():
    import ctk

    button = ctk.ctkCheckablePushButton()
    came = heard(button, "checkStateChanged(Qt::CheckState)", "checkBoxToggled(bool)")
    assert not button.checkable and button.checkState == 0
    button.checkState = 2
    button.checkState = 2
    assert button.checkable and came == [("checkStateChanged", 2), ("checkBoxToggled", True)]
    button.checkBoxControlsButton = False
    button.checkState = 0
    assert button.checkable and came[2:] == [("checkStateChanged", 0), ("checkBoxToggled", False)]
    button.checkBoxControlsButton = True
    assert button.checkState == 2


def test_combo_boxes_tell_data_and_checks():
    import ctk

    box, many = ctk.ctkComboBox(), ctk.ctkCheckableComboBox()
    box.addItem("Patient", "patient")
    box.addItem("Noise", "noise")
    box.setCurrentUserDataAsString("noise")
    assert box.currentText == "Noise" and box.currentUserDataAsString == "noise"
    many.addItems(["a", "b"])
    came = heard(many, "checkedIndexesChanged()")
    assert many.noneChecked() and not many.allChecked()
    many.setCheckState(many.checkableModel().index(1, 0), 2)
    assert [index.row() for index in many.checkedIndexes()] == [1] and len(came) == 1
    many.setCheckState(many.checkableModel().index(0, 0), 2)
    assert many.allChecked()


@pytest.mark.parametrize(
    ("setter", "first", "rest"),
    [
        ("setCollapsibleText", "First", "\nSecond"),
        ("setCollapsiblePlainText", "First", "\nSecond"),
        ("setCollapsibleHtml", "<b>First</b>", "<br>Second"),
        ("setCollapsibleText", "<html>First", "<br>Second</html>"),
    ],
)
def test_a_long_text_unfolds_at_its_link(setter, first, rest):
    import ctk
    import qt

    browser = ctk.ctkFittedTextBrowser()
    getattr(browser, setter)(first + rest)
    assert (
        browser.collapsibleText() == first + rest
        and browser.toPlainText() == "First Show details..."
    )
    small = browser.sizeHint.height()
    browser.anchorClicked(qt.QUrl("#show_details"))
    assert (
        not browser.collapsed
        and "Second" in browser.plainText
        and "Hide details." in browser.plainText
    )
    browser.collapsed = True
    assert "Second" not in browser.plainText and browser.sizeHint.height() == small
    getattr(browser, setter)("Alone")
    assert browser.plainText == "Alone"


@pytest.fixture
def selector(scene):
    """Chooses volumes; all its actions are enabled."""
    import slicer

    made = slicer.qMRMLNodeComboBox()
    made.nodeTypes = ("vtkMRMLScalarVolumeNode",)
    made.noneEnabled = made.renameEnabled = made.editEnabled = True
    made.setMRMLScene(scene)
    return made


def pick(selector, text):
    """Choose a line of the selector's menu as a user does."""
    box = selector.findChild("QComboBox")
    index = box.findText(text)
    assert index >= 0, [box.itemText(i) for i in range(box.count())]
    if box.model().item(index).isSelectable():
        box.setCurrentIndex(index)
    box.activated.emit(index)


def test_a_selector_creates_renames_and_deletes(selector, scene):
    import qt

    came = heard(
        selector,
        "nodeAdded(vtkMRMLNode*)",
        "nodeAddedByUserAction(vtkMRMLNode*)",
        "currentNodeChanged(bool)",
        "currentNodeRenamed(QString)",
        "nodeAboutToBeRemoved(vtkMRMLNode*)",
        "nodeActivated(vtkMRMLNode*)",
    )
    selector.setNodeTypeLabel("image", "vtkMRMLScalarVolumeNode")
    selector.addAttribute("vtkMRMLScalarVolumeNode", "Role", "target")
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "without the attribute")
    pick(selector, "Create new image")
    first = selector.currentNode()
    assert (
        first.GetName() == "image"
        and first.GetAttribute("Role") == "target"
        and selector.nodeCount() == 1
    )
    qt.replies.append("target")
    pick(selector, "Rename current image")
    assert first.GetName() == "target" == selector.findChild("QComboBox").currentText()
    qt.replies.append("other")
    pick(selector, "Create new image as...")
    second = selector.currentNode()
    assert (
        second.GetName() == "other"
        and selector.nodeFromIndex(1) is second
        and selector.nodeFromIndex(2) is None
    )
    pick(selector, "target")
    assert selector.currentNode() is first and selector.currentNodeID == first.GetID()
    pick(selector, "Delete current image")
    assert selector.currentNode() is None and first.GetScene() is None
    selector.setCurrentNodeIndex(0)
    assert selector.currentNode() is second
    assert came == [
        ("nodeAdded", first),
        ("currentNodeChanged", True),
        ("nodeActivated", first),
        ("nodeAddedByUserAction", first),
        ("currentNodeChanged", True),
        ("currentNodeRenamed", "target"),  # its new name is taken for another node
        ("nodeAdded", second),
        ("currentNodeChanged", True),
        ("nodeActivated", second),
        ("nodeAddedByUserAction", second),
        ("currentNodeChanged", True),
        ("currentNodeRenamed", "other"),
        ("currentNodeChanged", True),
        ("nodeActivated", first),
        ("nodeAboutToBeRemoved", first),
        ("currentNodeChanged", False),
        ("currentNodeChanged", True),
    ]
    selector.removeAttribute("vtkMRMLScalarVolumeNode", "Role")
    assert selector.nodeCount() == 2
    with pytest.raises(NotImplementedError, match="test host"):
        selector.editCurrentNode()


def test_a_selector_offers_what_its_types_say(selector, scene):
    plain, label, vector = (
        scene.AddNewNodeByClass(f"vtkMRML{kind}VolumeNode")
        for kind in ("Scalar", "LabelMap", "Vector")
    )
    hidden = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    hidden.SetHideFromEditors(True)
    offered = lambda: [selector.nodeFromIndex(i) for i in range(selector.nodeCount())]  # noqa: E731
    assert offered() == [plain, label, vector]
    selector.hideChildNodeTypes = ("vtkMRMLVectorVolumeNode",)
    assert offered() == [plain, label]
    selector.showChildNodeTypes = False
    assert offered() == [plain]
    selector.showHidden = True
    assert offered() == [plain, hidden]
    selector.setCurrentNode(vector)
    assert selector.currentNode() is None
    selector.setCurrentNode(plain.GetID())
    assert selector.currentNode() is plain


def test_a_selector_goes_on_to_the_entry_before_when_its_node_is_removed(selector, scene):
    first, second = (
        scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in ("first", "second")
    )
    selector.setCurrentNode(second)
    scene.RemoveNode(second)
    assert selector.currentNode() is first
    scene.RemoveNode(first)
    assert (
        selector.currentNode() is None and selector.findChild("QComboBox").currentText() == "None"
    )


def test_a_selector_without_none_starts_with_the_first_node(scene):
    import slicer

    first = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "first")
    for none in (True, False):
        made = slicer.qMRMLNodeComboBox()
        made.nodeTypes, made.noneEnabled = ("vtkMRMLScalarVolumeNode",), none
        came = heard(made, "currentNodeChanged(vtkMRMLNode*)")
        made.setMRMLScene(scene)
        assert made.currentNode() is (None if none else first)
        assert came == [("currentNodeChanged", made.currentNode())]  # told even where it is none


def scene_file(scene, folder):
    """A saved scene with one volume, which is cleared then."""
    import numpy as np
    import slicer

    slicer.util.addVolumeFromArray(np.zeros((2, 2, 2)), name="loaded")
    assert slicer.util.saveScene(str(folder / "scene.mrml"))
    scene.Clear(0)
    return str(folder / "scene.mrml")


def test_a_selector_knows_a_loaded_node_only_after_the_observers_before_it(scene, tmp_path):
    import slicer

    file, seen = scene_file(scene, tmp_path), []

    def ask(*_):
        node = scene.GetFirstNodeByName("loaded")
        selector.setCurrentNode(node)
        seen.append((node is not None, selector.currentNode() is node))

    events = [
        scene.AddObserver(scene.NodeAddedEvent, lambda *_: seen.append(selector.nodeCount())),
        scene.AddObserver(scene.EndImportEvent, ask),
    ]
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes, selector.noneEnabled = ("vtkMRMLScalarVolumeNode",), True
    selector.setMRMLScene(scene)
    events += [
        scene.AddObserver(scene.EndImportEvent, ask),
        scene.AddObserver(scene.EndImportEvent, ask, -1.0),
    ]
    slicer.util.loadScene(file)
    assert set(seen[:-3]) == {0}  # nothing comes while the scene is imported
    assert seen[-3:] == [(True, False), (True, True), (True, True)]
    for tag in events:
        scene.RemoveObserver(tag)


def test_a_selector_lets_go_of_its_node_when_more_is_imported(selector, scene, tmp_path):
    file = scene_file(scene, tmp_path)
    mine = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mine")
    selector.setCurrentNode(mine)
    came = heard(selector, "currentNodeChanged(bool)")
    scene.SetURL(file)
    assert scene.Import() and selector.nodeCount() == 2
    assert selector.currentNode() is None and came[-1] == ("currentNodeChanged", False)


def test_a_table_view_shows_its_node_and_follows_it(scene):
    import qt
    import slicer
    import vtk

    node = scene.AddNewNodeByClass("vtkMRMLTableNode")
    column = vtk.vtkDoubleArray()
    column.SetName("MAE (HU)")
    column.InsertNextValue(31.5)
    node.AddColumn(column)
    view = slicer.qMRMLTableView()
    view.setMRMLScene(scene)
    view.setMRMLTableNode(node)
    shown = lambda: [view.model().index(i, 0).data() for i in range(view.model().rowCount())]  # noqa: E731
    assert view.mrmlScene() is scene and view.mrmlTableNode() is node
    assert view.model().headerData(0, qt.Qt.Horizontal) == "MAE (HU)" and shown() == ["31.5"]
    node.SetCellText(node.AddEmptyRow(), 0, "5.25")
    node.Modified()
    assert shown() == ["31.5", "5.25"]
    view.setMRMLTableNode(None)
    assert view.model().rowCount() == 0
