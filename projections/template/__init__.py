"""A template's availability and terms, and the list of all templates of a realm."""

from projections.template.fold import TEMPLATE_MODEL, TEMPLATES_MODEL

__all__ = ["TEMPLATES_MODEL", "TEMPLATE_MODEL"]
