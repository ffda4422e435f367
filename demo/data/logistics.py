"""The support desk of a carrier that moves freight for businesses."""

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
    "Hamburg", "Bremen", "Cologne", "Stuttgart", "Leipzig", "Basel", "Antwerp", "Rotterdam",
    "Marseille", "Bordeaux", "Valencia", "Seville", "Naples", "Turin", "Athens", "Istanbul",
    "Budapest", "Bucharest", "Zagreb", "Riga", "Vilnius", "Gdansk", "Krakow", "Malmo", "Bergen",
    "Liverpool", "Belfast", "Houston", "Dallas", "Atlanta", "Memphis", "Montreal", "Shanghai",
    "Singapore", "Dubai", "Cape Town",
)  # fmt: skip

PREFIXES = ("LX", "TR", "FC", "NV", "KB", "QD", "SH", "WP")

GOODS = "[pallets|boxes|crates|machine|pipes|tiles|tyres|containers|furniture|barrels]"

REQUESTS = {
    "track_shipment": (
        "[Where is|Where's] [our|my|the] [shipment|freight|consignment|truck]?",
        "[Where is|Where's] [shipment|consignment] {order}?",
        f"[When|On which day] will the {GOODS} [arrive|be delivered|reach us]?",
        "What is the [current |]status of [our shipment|{order}|the consignment]?",
        "We are [still |]waiting for the [delivery|truck|freight].",
        "[Can|Could] you [track|locate|trace] [our shipment|{order}|the truck]?",
        "The [shipment|truck|freight] [from {origin} ]to {city} is [late|delayed|overdue].",
        "The tracking page [shows nothing|has not changed|does not update].",
        f"Has the [truck|shipment] with our {GOODS} left [the depot|the port|yet]?",
        "Please send [us |]the [latest |]position of the [truck|shipment].",
    ),
    "book_pickup": (
        "[Please|Can you|Could you] [pick up|collect] [a shipment|our freight|some pallets].",
        f"We have {{small}} {GOODS} [to collect|to pick up|ready for pickup].",
        "[I want|We want|We would like] to [book|arrange|order] a [pickup|collection].",
        "[I need|We need] a truck [for a pickup|to collect goods].",
        "[Can|Could] a driver come [and collect|to collect|to pick up] our goods?",
        "Our goods [to {city} |]are ready [for pickup|for collection|to be collected].",
        "[Please|Kindly] [schedule|arrange|plan] a [pickup|collection].",
        "When can you [pick up|collect] [the load|our goods|{order}]?",
        f"Pickup of {{small}} {GOODS}[ to {{city}}|], please.",
        "[How do I|Where can I] book a [collection|pickup]?",
    ),
    "reschedule_delivery": (
        "[Please|Can you|Could you] [move|change|postpone] the delivery [date|day|time].",
        "[We need|I need|We would like] to reschedule [the delivery|delivery {order}].",
        "Nobody is at the warehouse, please deliver [later|on another day].",
        "[Our|The] warehouse is closed, please [come|deliver] [another|a different] day.",
        "The delivery [slot|date|time] does not [suit|work for] us.",
        "[Is|Would] it [be |]possible to [move|postpone|delay] the delivery?",
        "[Can|Could] the truck [come|arrive] one day later?",
        "We [cannot|can't] [unload|receive goods|take it] on that day.",
        "[Please deliver|Deliver] [{order}|it] [a day|two days|one week] later.",
        "[Please|Kindly] give us a new delivery [date|slot].",
    ),
    "customs_question": (
        "[The shipment|Our freight|{order}] is [stuck|held|blocked] [at|in] customs.",
        "Which [papers|documents|forms] do you need for customs?",
        "[Customs asks|They ask] for [a tariff code|more papers|an import licence].",
        "[Who|Which of us] pays the [customs duty|import duty|duties]?",
        "Has [the shipment|{order}|our freight] cleared customs[ yet|]?",
        "What does customs [clearance |]cost [us |]?",
        "[We have|I have] a [question|problem] [about|with] customs.",
        "How long does customs [clearance |]take[ in {city}|]?",
        "[We got|I received] a letter from customs[ in {city}|].",
        f"Are the {GOODS} [exempt|free] from import duty?",
    ),
    "lost_shipment": (
        "[Our|The] [shipment|consignment|freight] [is lost|went missing|has disappeared].",
        "You [lost|have lost] [our shipment|our freight|{order}].",
        f"{{small}} of the {GOODS} are missing.",
        "[Shipment|Consignment] {order} [is gone|has vanished|cannot be found].",
        f"[Nobody|No one] can find our {GOODS}.",
        "[We want|I want] to report a lost [shipment|consignment].",
        "Please [start|open] a search for [the lost freight|our missing shipment].",
        "The driver says it was delivered, but [it is not here|we never got it].",
        "[Part|Half] of the load [is missing|never arrived].",
        "The [load|freight] to {city} [was stolen|got lost].",
    ),
    "damaged_freight": (
        f"The {GOODS} [arrived|came] [damaged|broken|wet].",
        "[Our|The] [freight|shipment|load] [is|was] damaged.",
        "[Shipment|Consignment] {order} [arrived|came] damaged.",
        f"[Some|Two|Most] of the {GOODS} [are|were] [broken|crushed|dented].",
        "We [want|would like|need] to [file|make|report] a damage claim.",
        "The [driver|forklift] [dropped|crushed|broke] [the load|our goods].",
        "[Water|Rain] [got into|damaged] the [load|container].",
        "The [packaging|wrapping] was [torn|open] and the goods [are damaged|are broken].",
        "Who pays for the [damage|broken goods]?",
        "There is [damage|a big dent] [on|to] the [load|freight].",
    ),
    "price_quote": (
        "[What|How much] does [a shipment|a truck|transport] [to {city} |]cost?",
        f"How much is it to [send|ship|move] {{small}} {GOODS}[ to {{city}}|]?",
        "[Please|Can you|Could you] send [us |me |]a [quote|price|offer].",
        "[I need|We need|We would like] a [quote|price|quotation] [for transport|to {city}].",
        "What are your [rates|prices] [for|on] [sea|air|road] freight?",
        "[Do you|Can you] offer a [discount|better price][ for regular loads|]?",
        f"Your price for {{small}} {GOODS}, please.",
        "[Please|Kindly] [quote|price] [a load|a full truck][ from {origin} to {city}|].",
        "What would [it|a truck|express] cost[ to {city}|]?",
        "We are [comparing|looking at] [prices|offers] for [freight|transport].",
    ),
    "proof_of_delivery": (
        "[Please|Can you|Could you] send [us |]the [proof of delivery|delivery note].",
        "[We need|I need|We want] [the|a] proof of delivery[ for {order}|].",
        "Who signed for [the shipment|the delivery|{order}]?",
        "Our customer says it [never came|did not come], [is there|have you] a signature?",
        "[Please|Kindly] send [us |]the signed [papers|delivery note|waybill].",
        "[May|Can] we [have|get] the signature of the [receiver|recipient]?",
        "We [cannot|can't] bill [our|the] customer without proof of delivery.",
        "[Where|How] can I [find|download] the [signed waybill|delivery note]?",
        "The proof of delivery is [missing|not online].",
        "[Is there|Do you have] a photo of the delivery?",
    ),
}

HARDER_REQUESTS = {
    "track_shipment": (
        "Any idea how far the lorry has got by now, is it still on the road?",
        "The gate is open and the crew waits, but no truck in sight. Where is it?",
        "Give me an arrival estimate for our freight.",
        "I refresh the tracking all day and see no movement.",
    ),
    "book_pickup": (
        "Four crates stand at our ramp, somebody should collect them.",
        "Let your driver stop at our gate for a pickup.",
        "We packed everything, so send a vehicle to pick up the goods.",
        "Is a collection at our plant possible?",
    ),
    "reschedule_delivery": (
        "Our crane is broken that day, so another delivery date is needed.",
        "Could you hold the delivery back a little and come later?",
        "Public holiday here! Choose a later day for the delivery.",
        "The agreed slot clashes with our stocktaking, a new date please.",
    ),
    "customs_question": (
        "An officer at the border wants papers for customs that I have never heard of.",
        "Must we hand in an export form at customs?",
        "Why is duty charged on samples? Please explain the customs rules.",
        "The customs people sealed our container, what now?",
    ),
    "lost_shipment": (
        "It seems the freight fell off the face of the earth, it is lost.",
        "We counted again and one crate is missing.",
        "Your depot cannot find our goods any more.",
        "Somewhere on the way the whole load went missing.",
    ),
    "damaged_freight": (
        "Half of what we unloaded is scrap, damaged beyond repair.",
        "The corners are all crushed and the glass is broken.",
        "Your man drove a fork through a box and damaged our goods.",
        "Everything was soaked and damaged when we opened the doors.",
    ),
    "price_quote": (
        "We would ship weekly, what price could you make us?",
        "My boss wants to know the cost of a full truck.",
        "Make me an offer for three loads a month.",
        "Are you cheaper than the others? Quote me something.",
    ),
    "proof_of_delivery": (
        "The buyer denies everything, so I want to see whose signature you have.",
        "Where is the paper that the receiver signed at delivery?",
        "Our lawyers ask for evidence, a signed proof that it was handed over.",
        "Kindly forward the note with the stamp of the recipient, signed.",
    ),
}

KNOWN = Phrasebook(
    openings=OPENINGS,
    requests=REQUESTS,
    order_mentions=(
        "[Our|The] order number is {order}.",
        "[Order|Order number|Order no.|Our order]: {order}.",
        "[It is|It's|This is about|It concerns] [order|shipment] [number |no. |]{order}.",
        "[Reference|Ref.|Our reference] [is |]{order}.",
        "The [waybill|booking|order] is {order}.",
        "[We mean|I mean|That is] [order |]{order}.",
    ),
    city_mentions=(
        "[It goes|The goods go|It should go|It is going] to {city}.",
        "[It goes|The goods go|It travels] from {origin} to {city}.",
        "[The destination|The receiver|Our customer] is [in |]{city}.",
        "[Destination|City|Delivery city]: {city}.",
        "[Our|The] [warehouse|plant|site] is in {city}.",
        "[Delivery is|The delivery is] [to|in] {city}.",
    ),
    urgency_cues=URGENCY_CUES,
    asides=(
        "[It weighs|The weight is] {small} [kg|tonnes].",
        "[It left|It was sent|We booked it] {small} [days|weeks] ago.",
        "[Our|The] account number is 7{small}.",
        "We have [called|written] {small} times[ already|].",
        "We ship with you [every week|every month|a lot].",
        "The driver was [friendly|late|rude].",
        "[Our gate opens|The office opens] at {small}.",
        "We booked it [online|by phone|by email].",
    ),
    closings=CLOSINGS,
)

HARDER = Phrasebook(
    openings=HARDER_OPENINGS,
    requests=HARDER_REQUESTS,
    order_mentions=(
        "You will see it as {order} in your system.",
        "The label on the crate reads {order}.",
        "Here is the number from your mail: {order}.",
        "On the papers it says {order}.",
    ),
    city_mentions=(
        "Everything is meant for our branch in {city}.",
        "At the end of the line it is unloaded in {city}.",
        "The buyer sits in {city}.",
        "Coming out of {origin}, it ends in {city}.",
    ),
    urgency_cues=HARDER_URGENCY_CUES,
    asides=(
        "Last year you moved {small} loads for us.",
        "The ramp is {small} metres wide.",
        "It is the first time we work with you.",
        "The traffic is awful here.",
    ),
    closings=HARDER_CLOSINGS,
)


def order_number(rng: Random) -> str:
    """Two letters and six digits, as in LX204817."""
    return f"{rng.choice(PREFIXES)}{rng.randrange(100_000, 1_000_000)}"


LOGISTICS = Domain(
    name="logistics-support",
    instruction="Logistics support. Give intent, order_number, city, urgency as JSON.",
    cities=CITIES,
    order_number=order_number,
    known=KNOWN,
    harder=HARDER,
)
