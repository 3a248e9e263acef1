/* The node on an ATmega328P, such as an Arduino Uno or Nano: two analogue inputs, in millivolts.
 *
 * To put in sensors of your own, change `sensors` and `measure` (and SENSORS in the Makefile). */
#include <avr/eeprom.h>
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include <stdbool.h>
#include <stdint.h>
#include <util/atomic.h>

#include "../node.h"
#include "../settings.h"

#define BAUD 115200UL
#define FIRST_INTERVAL_MS 1000u
#define SUPPLY_MV 5000UL
#define RECEIVE_BUFFER 64u /* a power of two */

#if NODE_FRAME > 255
#error "a frame longer than 255 bytes cannot be sent: see serial_send"
#endif

static const struct sensor sensors[SENSORS] = {
    {"a0", "mV"},
    {"a1", "mV"},
};

static struct node node;
static struct settings settings;
static struct settings EEMEM stored[2];

/* --- clock: timer 0 interrupts each millisecond --- */

static volatile uint32_t milliseconds;

ISR(TIMER0_COMPA_vect)
{
    milliseconds++;
}

static void clock_start(void)
{
    TCCR0A = _BV(WGM01);
    TCCR0B = _BV(CS01) | _BV(CS00);
    OCR0A = F_CPU / 64 / 1000 - 1;
    TIMSK0 = _BV(OCIE0A);
}

static uint32_t clock_ms(void)
{
    uint32_t now;

    ATOMIC_BLOCK(ATOMIC_FORCEON)
    {
        now = milliseconds;
    }
    return now;
}

/* --- serial port --- */

static volatile uint8_t received[RECEIVE_BUFFER];
static volatile uint8_t received_in, received_out;
static const uint8_t *volatile sending;
static volatile uint8_t sending_left;

ISR(USART_RX_vect)
{
    uint8_t byte = UDR0;
    uint8_t next = (received_in + 1) % RECEIVE_BUFFER;

    if (next != received_out) { /* what finds no room is missed by the CRC */
        received[received_in] = byte;
        received_in = next;
    }
}

ISR(USART_UDRE_vect)
{
    UDR0 = *sending++;
    if (--sending_left == 0)
        UCSR0B &= (uint8_t)~_BV(UDRIE0);
}

static void serial_start(void)
{
    UCSR0A = _BV(U2X0);
    UBRR0 = (F_CPU / 8 + BAUD / 2) / BAUD - 1;
    UCSR0C = _BV(UCSZ01) | _BV(UCSZ00);
    UCSR0B = _BV(RXEN0) | _BV(TXEN0) | _BV(RXCIE0);
}

static bool serial_take(uint8_t *byte)
{
    if (received_out == received_in)
        return false;
    *byte = received[received_out];
    received_out = (received_out + 1) % RECEIVE_BUFFER;
    return true;
}

static void serial_send(const uint8_t *bytes, uint8_t size)
{
    if (size == 0)
        return;
    sending = bytes;
    sending_left = size;
    UCSR0B |= _BV(UDRIE0);
}

/* --- sensors --- */

static uint16_t convert(uint8_t channel)
{
    ADMUX = _BV(REFS0) | channel; /* measured against the supply */
    ADCSRA = _BV(ADEN) | _BV(ADPS2) | _BV(ADPS1) | _BV(ADPS0) | _BV(ADSC);
    while (ADCSRA & _BV(ADSC))
        ;
    return ADC;
}

static void measure(value_t values[SENSORS])
{
    for (uint8_t channel = 0; channel < SENSORS; channel++)
        values[channel] = (value_t)((convert(channel) * SUPPLY_MV + 512) / 1024);
}

/* --- settings --- */

/* What memory holds after power comes on differs from chip to chip, and so does noise. */
static uint16_t some_number(void)
{
    extern const uint8_t __bss_end[];
    uint16_t number = CRC16_START;

    for (const uint8_t *byte = __bss_end; byte < (const uint8_t *)SP; byte++)
        number = crc16(number, *byte);
    for (uint8_t turn = 0; turn < 32; turn++)
        number = crc16(number, (uint8_t)convert(turn % 8));
    return number;
}

static void settings_load(void)
{
    struct settings copies[2];

    eeprom_read_block(copies, stored, sizeof copies);
    if (!settings_choose(&settings, copies)) {
        settings.interval_ms = FIRST_INTERVAL_MS;
        settings.board = some_number();
    }
}

static void settings_store(void)
{
    uint8_t copy = settings_seal(&settings);

    eeprom_update_block(&settings, &stored[copy], sizeof settings);
}

int main(void)
{
    settings_load();
    settings_store(); /* counts this start */
    clock_start();
    serial_start();
    node_start(&node, sensors, settings.board, settings.written, settings.interval_ms, clock_ms());
    set_sleep_mode(SLEEP_MODE_IDLE);
    sei();
    serial_send((const uint8_t *)"", 1); /* ends what a boot loader may have said */
    for (;;) {
        uint32_t now = clock_ms();
        uint8_t byte;

        while (serial_take(&byte))
            node_receive(&node, byte, now);
        if (node.interval_ms != settings.interval_ms) {
            settings.interval_ms = node.interval_ms;
            settings_store();
        }
        if (node_is_due(&node, now)) {
            value_t values[SENSORS];

            measure(values);
            node_record(&node, values, now);
        }
        if (sending_left == 0)
            serial_send(node.frame, (uint8_t)node_send(&node, now));
        sleep_mode(); /* until the next interrupt, a millisecond at most */
    }
}
