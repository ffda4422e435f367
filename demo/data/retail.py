"""The support desk of a shop that sells to people at home."""

from random import Random

from demo.data.common_phrases import (
    CLOSINGS,
    HARDER_CLOSINGS,
    HARDER_OPENINGS,
    HARDER_URGENCY_CUES,
    OPENINGS,
    URGENCY_CUES,
)
from demo.data.domain import Domain, Phrasebook

CITIES = (
    "Leeds", "Bristol", "Oxford", "Glasgow", "Dublin", "Cardiff", "London", "Manchester", "Exeter",
    "Paris", "Lyon", "Madrid", "Berlin", "Munich", "Vienna", "Zurich", "Geneva", "Milan", "Rome",
    "Lisbon", "Porto", "Brussels", "Amsterdam", "Oslo", "Stockholm", "Helsinki", "Prague", "Warsaw",
    "Boston", "Chicago", "Denver", "Seattle", "Austin", "Toronto", "Sydney", "New York",
)  # fmt: skip

THING = "[shoes|jacket|lamp|headphones|kettle|chair|coat|blender|backpack|watch|carpet|mirror]"

REQUESTS = {
    "track_order": (
        "[Where is|Where's] my [order|parcel|package]?",
        "[Where is|Where's] [order|my order] {order}?",
        "[When|On which day] will my [order|parcel|package] [arrive|be delivered|get here]?",
        "I am [still |]waiting for my [order|parcel|package|delivery].",
        "My [order|parcel|package] has [still |]not [arrived|come|been delivered].",
        "[Can|Could] you tell me where my [order|parcel|package] is?",
        "Has [my order|order {order}|my parcel] been shipped[ yet|]?",
        f"The {THING} I ordered [never arrived|did not arrive|has not come].",
        "What is the [delivery |shipping |]status of [my order|{order}|my parcel]?",
        "My [parcel|package] to {city} is [late|overdue|delayed].",
    ),
    "cancel_order": (
        "[Please |I want to |I would like to ]cancel [my|the|this] order.",
        "[Please |I want to |I need to ]cancel order {order}.",
        "I [no longer need|do not want|don't need] [the|my] order[ any more|].",
        "[Can|Could|May] I [still |]cancel [my order|what I ordered]?",
        f"I changed my mind about the {THING}, [do not send it|stop the order].",
        "I ordered [twice|two times] by mistake, please cancel [one|one of them].",
        "[Please|Kindly] stop [my|the] order before it [ships|is sent|goes out].",
        f"I found the {THING} [cheaper|for less] elsewhere, so [please |]cancel.",
        "How [do|can] I cancel [an order|my order|{order}]?",
        "Cancellation [of my order|of {order}|please].",
    ),
    "return_item": (
        f"I [want|would like|need] to [return|send back] [the|my] {THING}.",
        f"How [do|can] I [return|send back] [the|a|my] {THING}?",
        f"The {THING} [does not|doesn't] fit, [I want to return it|can I return it]?",
        "I [need|would like] a return label[ please|].",
        "[Please send|Can you send|I did not get] [me |]a return label.",
        f"I am not happy with the {THING} and [want to send it back|will return it].",
        "[Where|How] can I [hand in|drop off] my return?",
        "[What is|Tell me] the [way|address] to return [an item|order {order}]?",
        f"The {THING} is too [small|big|heavy], I [want to return it|want to send it back].",
        "I want to [start|open|make] a return.",
    ),
    "refund_status": (
        "[Where is|When do I get|When will I get] my [refund|money back|money]?",
        "I am [still |]waiting for my [refund|money].",
        "[You still owe me|I have not received|I did not get] my [refund|money back].",
        f"I sent the {THING} back but [got no refund|no refund came|no money came].",
        "How long does [a|my|the] refund take?",
        "[Has|Was] my refund [been |]processed?",
        "[Please check|Can you check|Check] [my|the] refund[ for {order}| status|].",
        "The refund [for {order} |]is not on my [card|account|bank account].",
        "What is the status of my refund?",
        "[My refund is missing|The refund never came|No refund so far].",
    ),
    "change_address": (
        "[I want|I need|I would like] to change [my|the] [delivery |shipping |]address.",
        "[Please|Can you] change the address [of|on] [my order|order {order}]?",
        "I [moved|have moved|am moving], please [update|change] my address.",
        "I [gave|entered|typed] the wrong address.",
        "The [delivery |shipping |]address [of my order|on order {order}] is wrong.",
        "[Please|Kindly] [send|deliver] [it|my order] to {city} instead.",
        "[Can|Could] [you|I] [still |]change [where it goes|the address]?",
        "My new address is in {city}, [please update it|please change it].",
        "[Please |]deliver [it |my order |]to [another|a different|a new] address.",
        "[How do I|Where can I] [update|change|correct] my address?",
    ),
    "damaged_item": (
        f"[The|My] {THING} [arrived|came] [broken|damaged|cracked].",
        f"[The|My] {THING} is [broken|damaged|scratched|cracked].",
        "[My order|Order {order}|My parcel] [arrived|came] damaged.",
        f"There is a [crack|scratch|hole|dent] in the {THING}.",
        f"The {THING} [does not work|doesn't work|stopped working|will not turn on].",
        "The [box|parcel|package] was [crushed|torn|wet] and the [item|content] is broken.",
        f"I received a [faulty|defective|broken] {THING}.",
        "Everything in the [box|parcel] was [broken|smashed|in pieces].",
        f"[I unpacked|We opened] the {THING} and it was [broken|damaged].",
        "The [item|product] is [defective|faulty|damaged].",
    ),
    "wrong_item": (
        f"I [received|got] the wrong {THING}.",
        f"You [sent|delivered] [me |]the wrong [item|size|colour|{THING}].",
        f"I ordered a {THING} but [got|received] [a book|a shirt|something else].",
        "[This is|That is|It is] not what I ordered.",
        "The [parcel|box|package] [contains|has] [the wrong|a different] [item|product].",
        "[Order {order}|My order] came with the wrong [item|product|size].",
        f"The {THING} [is|has] the wrong [size|colour|model].",
        "There was [someone else's order|a different product] in [my box|the parcel].",
        "[Wrong|A wrong] [item|product|size] [in my order|in the box|was delivered].",
        f"I [expected|wanted] a blue {THING} and [got|received] a red one.",
    ),
    "invoice_request": (
        "[I need|I want|I would like] [an|the|my] invoice[ for my order| for {order}|].",
        "[Please|Can you|Could you] send [me |]the invoice[ again| by email|].",
        "[Where|How] can I [find|download|get] [my|the] [invoice|bill|receipt]?",
        "I [did not get|never got|have not received] [an|the] [invoice|receipt].",
        "My [company|boss|accountant] needs [an|the] invoice.",
        "[Please|Kindly] [issue|make out] an invoice [to my company|for {order}].",
        "The [invoice|receipt] [is missing|was not in the box].",
        "[May|Can] I [have|get] a [copy of the |]receipt[ for my order|]?",
        "I need [a receipt|an invoice|a bill] for [my taxes|my records|the warranty].",
        "There is a mistake [on|in] [my|the] invoice.",
    ),
}

HARDER_REQUESTS = {
    "track_order": (
        "Any news on when the courier brings what I bought?",
        "It has been ages and nothing was delivered, where could it be?",
        "Tracking shows nothing. Did you ship it at all?",
        "I keep looking out of the window, yet no parcel. Where did it end up?",
    ),
    "cancel_order": (
        "Forget about it, I don't want it shipped. Cancel everything.",
        "My wife already bought one, so could the order be cancelled?",
        "Is it too late to call the whole order off and cancel?",
        "Undo my purchase, the order should not go out.",
    ),
    "return_item": (
        "It looks ugly on me. What must I do to give it back and return it?",
        "The trousers are too tight, so back they go. Label for the return?",
        "Will you take the sofa back if I return it unused?",
        "I would rather send this present back to you.",
    ),
    "refund_status": (
        "You promised a refund, yet my bank shows nothing.",
        "The money for what I gave back was never paid out, any refund?",
        "Did somebody forget to pay me the refund?",
        "I returned everything, so when is my money coming?",
    ),
    "change_address": (
        "We live somewhere else now, so the old address is no good.",
        "Use my office as the delivery address rather than home.",
        "Oops, wrong street! The address has to be corrected.",
        "Could the driver bring it to my new address?",
    ),
    "damaged_item": (
        "When I opened the box, the vase was in a thousand pieces, all broken.",
        "The screen of the tablet has a long crack, it must have been damaged.",
        "It was smashed on arrival, someone must have dropped it.",
        "After one day it is already broken and will not start.",
    ),
    "wrong_item": (
        "Whose trousers are these? Mine were meant to be green, you sent the wrong ones.",
        "Somebody mixed up the boxes, this is the wrong product.",
        "I asked for large and you delivered small, wrong size.",
        "A toaster came, although I ordered a radio.",
    ),
    "invoice_request": (
        "For my tax return I lack the invoice, could I have it as a file?",
        "Would you mail the bill again, the receipt got lost.",
        "Our bookkeeping wants a proper invoice with the company's name.",
        "No receipt came with the goods, please provide one.",
    ),
}

KNOWN = Phrasebook(
    openings=OPENINGS,
    requests=REQUESTS,
    order_mentions=(
        "[My|The] order number is {order}.",
        "[Order|Order number|Order no.|My order]: {order}.",
        "[It is|It's|This is about|It is about] order [#|number |no. |]{order}.",
        "[Order|ref.|reference] #{order}.",
        "The order is [#|]{order}.",
        "[I mean|I am talking about|That is] [order |number |]{order}.",
    ),
    city_mentions=(
        "I live in {city}.",
        "I am [in|from|based in] {city}.",
        "[My city is|City:|Delivery city:] {city}.",
        "[It goes|It should go|It was to go|Delivery is] to {city}.",
        "[My|The] [address|flat|house] is in {city}.",
        "[I ordered it|It was ordered|I bought it] to my home in {city}.",
    ),
    urgency_cues=URGENCY_CUES,
    asides=(
        "I [ordered|bought it] {small} [days|weeks] ago.",
        "I paid {small} [euros|pounds|dollars].",
        "[My|The] customer number is 4{small}.",
        "I have [written|called|asked] {small} times[ already|].",
        "I am a [loyal|regular] customer.",
        "It was a [gift|present] for my [mother|son|friend|wife].",
        "I [love|like] your shop[ by the way|].",
        "[I paid by card|I used the app|I ordered online].",
    ),
    closings=CLOSINGS,
)

HARDER = Phrasebook(
    openings=HARDER_OPENINGS,
    requests=HARDER_REQUESTS,
    order_mentions=(
        "You will find it under {order} in your books.",
        "The mail from you says number {order} at the top.",
        "Here is the number you always want: {order}.",
        "On the slip it says {order}.",
    ),
    city_mentions=(
        "Our home is in the middle of {city}.",
        "We are a family in {city}.",
        "The driver should know {city} well.",
        "I am writing to you from sunny {city}.",
    ),
    urgency_cues=HARDER_URGENCY_CUES,
    asides=(
        "Last year I spent {small} euros at your place.",
        "My dog is {small} years old and hates waiting.",
        "It is the first time I write to you.",
        "The weather is awful here.",
    ),
    closings=HARDER_CLOSINGS,
)


def order_number(rng: Random) -> str:
    """Six digits, the first of them not 0."""
    return str(rng.randrange(100_000, 1_000_000))


RETAIL = Domain(
    name="retail-support",
    instruction="Retail support. Give intent, order_number, city, urgency as JSON.",
    cities=CITIES,
    order_number=order_number,
    known=KNOWN,
    harder=HARDER,
)
