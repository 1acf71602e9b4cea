"""Words of the tasks: everyday English, in no order that means anything.

A tokenizer makes one token of some of them only; `fit` keeps those.
"""


def words(text: str) -> tuple[str, ...]:
    """What blanks and line breaks separate."""
    return tuple(text.split())


NAMES = words(
    """
    Adam Alan Alex Alice Amy Andrew Angela Anna Anthony Arthur Barbara Ben Bill Bob Brian Carl Carol
    Charles Chris Claire Daniel David Diana Donald Dorothy Douglas Edward Ellen Emily Emma Eric Eva
    Frank Fred Gary George Grace Greg Hannah Harold Harry Helen Henry Howard Ian Jack Jacob James
    Jane Jason Jean Jennifer Jessica Jim Joan Joe John Joseph Julia Karen Kate Keith Kevin Larry
    Laura Lawrence Linda Lisa Louis Lucy Margaret Maria Mark Martin Mary Matthew Michael Mike Nancy
    Nathan Neil Nick Oliver Oscar Patrick Paul Peter Philip Rachel Ralph Rebecca Richard Robert
    Roger Rose Ruth Ryan Sam Samuel Sarah Scott Simon Stephen Steve Susan Thomas Tim Tom Tony Victor
    Walter William
    """
)

CAPITALS = {
    "Argentina": "Buenos Aires",
    "Australia": "Canberra",
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Brazil": "Brasilia",
    "Bulgaria": "Sofia",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "China": "Beijing",
    "Colombia": "Bogota",
    "Croatia": "Zagreb",
    "Cuba": "Havana",
    "Cyprus": "Nicosia",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "England": "London",
    "Estonia": "Tallinn",
    "Ethiopia": "Addis Ababa",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Ghana": "Accra",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Iceland": "Reykjavik",
    "India": "New Delhi",
    "Indonesia": "Jakarta",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Jamaica": "Kingston",
    "Japan": "Tokyo",
    "Jordan": "Amman",
    "Kenya": "Nairobi",
    "Latvia": "Riga",
    "Lebanon": "Beirut",
    "Libya": "Tripoli",
    "Lithuania": "Vilnius",
    "Malaysia": "Kuala Lumpur",
    "Mali": "Bamako",
    "Malta": "Valletta",
    "Morocco": "Rabat",
    "Nepal": "Kathmandu",
    "Nigeria": "Abuja",
    "Norway": "Oslo",
    "Pakistan": "Islamabad",
    "Peru": "Lima",
    "Philippines": "Manila",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Qatar": "Doha",
    "Romania": "Bucharest",
    "Russia": "Moscow",
    "Scotland": "Edinburgh",
    "Senegal": "Dakar",
    "Serbia": "Belgrade",
    "Slovakia": "Bratislava",
    "Slovenia": "Ljubljana",
    "Somalia": "Mogadishu",
    "Spain": "Madrid",
    "Sudan": "Khartoum",
    "Sweden": "Stockholm",
    "Switzerland": "Bern",
    "Syria": "Damascus",
    "Taiwan": "Taipei",
    "Thailand": "Bangkok",
    "Turkey": "Ankara",
    "Uganda": "Kampala",
    "Ukraine": "Kyiv",
    "Venezuela": "Caracas",
    "Vietnam": "Hanoi",
    "Wales": "Cardiff",
    "Yemen": "Sanaa",
    "Zambia": "Lusaka",
    "Zimbabwe": "Harare",
}
"""Country to capital."""

COLOURS = words(
    """
    red blue green yellow orange purple pink brown black white gray gold silver violet cyan magenta
    beige ivory navy teal maroon crimson scarlet turquoise indigo coral
    """
)

SHAPES = words(
    """
    circle square triangle rectangle oval star heart diamond cross arrow cube cone sphere cylinder
    pyramid hexagon pentagon octagon spiral ring crescent ellipse line box wheel shield drop wedge
    prism arch
    """
)

FRUITS = words(
    """
    apples bananas oranges lemons limes grapes cherries peaches pears plums strawberries
    blueberries raspberries mangoes melons figs dates apricots pineapples coconuts kiwis olives
    papayas cranberries blackberries tomatoes cucumbers pumpkins avocados peppers onions carrots
    potatoes beans peas mushrooms nuts almonds walnuts raisins watermelons nectarines guavas
    """
)
