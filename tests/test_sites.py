import pytest

from residuum.errors import SiteError
from residuum.sites import RowSpace, Site


def test_every_site_names_its_axes_with_layer_first():
    for site in Site:
        assert site.axes
        assert site.has_layers == (site.axes[0] == "layer")
        assert "layer" not in site.axes[1:]
    assert Site.K.axes == ("layer", "kv_head", "d_head")
    assert Site.PATTERN.axes == ("layer", "head", "key")


def test_which_sites_have_one_row_per_example():
    of_examples = [site for site in Site if site.row_space is RowSpace.EXAMPLE]
    assert of_examples == [Site.POOLED, Site.IMAGE_V]


def test_a_site_is_found_by_its_name_and_prints_as_it():
    for site in Site:
        assert Site.parse(site.value) is site
        assert f"{site}" == site.value
    with pytest.raises(SiteError, match="there is no site called 'Z'; the sites are embed, "):
        Site.parse("Z")
