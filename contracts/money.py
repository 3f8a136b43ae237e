"""Money is an integer of minor units plus an ISO 4217 currency; the exponent says how many digits a minor unit is."""

from decimal import Decimal
from typing import Final

_EXPONENT_0 = """
    BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF
"""
_EXPONENT_2 = """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY
    COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS
    INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR
    MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD
    SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
_EXPONENT_3 = """
    BHD IQD JOD KWD LYD OMR TND
"""
_EXPONENT_4 = """
    CLF UYW
"""

EXPONENTS: Final[dict[str, int]] = {
    code: exponent
    for exponent, codes in ((0, _EXPONENT_0), (2, _EXPONENT_2), (3, _EXPONENT_3), (4, _EXPONENT_4))
    for code in codes.split()
}


def require_currency(code: str) -> str:
    """Return the code unchanged, or raise ValueError when ISO 4217 does not list it as money in circulation."""
    if code not in EXPONENTS:
        raise ValueError(f"{code!r} is not an ISO 4217 currency code")
    return code


def to_major(amount_minor: int, currency: str) -> Decimal:
    """Minor units as an exact decimal of major units: ``to_major(1050, "GBP") == Decimal("10.50")``."""
    return Decimal(amount_minor).scaleb(-EXPONENTS[currency])


def format_money(amount_minor: int, currency: str) -> str:
    """How people read it: ``format_money(-105000, "GBP") == "-1,050.00 GBP"``."""
    return f"{to_major(amount_minor, currency):,.{EXPONENTS[currency]}f} {currency}"
