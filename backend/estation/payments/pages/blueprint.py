"""The one blueprint all citizen pages about money hang on."""

from sanic import Blueprint

bp = Blueprint("payment_pages")
