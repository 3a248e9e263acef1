/* An ATmega328P in simavr: `simulated_board FIRMWARE.elf`, or with nothing but a boot loader in it,
 * `simulated_board LOADER.hex`. Its serial port is standard input and output, and it runs no faster
 * than the real one. SIGUSR1 presses the reset button.
 *
 * Analogue input 0 has as many millivolts as the chip has run for units of 16 ms, modulo 4096, so
 * that a reading shows when it was taken; input 1 always has 2500. At the end (end of input,
 * SIGTERM) standard error gets a line: how many bytes of RAM the stack took at most. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <simavr/avr_adc.h>
#include <simavr/avr_uart.h>
#include <simavr/sim_avr.h>
#include <simavr/sim_elf.h>
#include <simavr/sim_hex.h>
#include <simavr/sim_time.h>

#define FREQUENCY 16000000u
#define SPL 0x5D
#define SPH 0x5E
#define LOOK_EVERY_US 500

static int port_out;
static avr_t *avr;
static avr_irq_t *uart, *adc;
static uint8_t input[256];
static size_t input_at, input_size;
static bool uart_has_room = true;
static bool has_loader;
static volatile sig_atomic_t stopped, reset;

static void on_signal(int number)
{
    if (number == SIGUSR1)
        reset = 1;
    else
        stopped = 1;
}

static void on_uart_output(struct avr_irq_t *irq, uint32_t value, void *unused)
{
    uint8_t byte = (uint8_t)value;

    (void)irq;
    (void)unused;
    while (write(port_out, &byte, 1) < 0 && errno == EINTR)
        ;
}

static void on_uart_room(struct avr_irq_t *irq, uint32_t value, void *has_room)
{
    (void)irq;
    (void)value;
    uart_has_room = has_room != NULL;
}

static int64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* The simulator keeps to the chip's time while the chip sleeps, but a boot loader never does. */
static void wait_for_the_clock(void)
{
    static int64_t started;
    int64_t chip_us = (int64_t)(avr->cycle / (FREQUENCY / 1000000));
    int64_t ahead = started + chip_us - now_us();

    if (ahead > 0 && started != 0)
        usleep((useconds_t)ahead);
    else
        started = now_us() - chip_us;
}

static void press_reset(void)
{
    avr_reset(avr);
    avr_regbit_set(avr, avr->reset_flags.extrf);
}

/* Takes what has come, sets the voltages; called at regular moments of the chip's time. */
static void look(void)
{
    struct pollfd stream = {STDIN_FILENO, POLLIN, 0};

    if (input_at == input_size && poll(&stream, 1, 0) > 0) {
        ssize_t size = read(STDIN_FILENO, input, sizeof input);


        if (size == 0)
            stopped = 1;
        input_size = size > 0 ? (size_t)size : 0;
        input_at = 0;
    }
    while (uart_has_room && input_at < input_size)
        avr_raise_irq(uart + UART_IRQ_INPUT, input[input_at++]);
    avr_raise_irq(adc + ADC_IRQ_ADC0, (uint32_t)(avr->cycle / (FREQUENCY / 1000) / 16 % 4096));
    avr_raise_irq(adc + ADC_IRQ_ADC1, 2500);
}

/* What the fuses of an Arduino do: a reset starts the loader, at the end of an empty memory. */
static bool load_boot_loader(const char *path)
{
    uint32_t size, start;
    uint8_t *loader = read_ihex_file(path, &size, &start);

    if (loader == NULL)
        return false;
    memset(avr->flash, 0xFF, avr->flashend + 1);
    memcpy(avr->flash + start, loader, size);
    avr->codeend = avr->flashend;
    avr->reset_pc = start;
    avr_reset(avr);
    has_loader = true;
    return true;
}

static bool load(const char *path)
{
    elf_firmware_t firmware;
    const char *ending = strrchr(path, '.');

    if (ending != NULL && strcmp(ending, ".hex") == 0)
        return load_boot_loader(path);
    memset(&firmware, 0, sizeof firmware);
    if (elf_read_firmware(path, &firmware) != 0)
        return false;
    avr_load_firmware(avr, &firmware);
    return true;
}

int main(int argc, char **argv)
{
    uint32_t uart_flags = 0;
    unsigned lowest = 0xFFFF;
    avr_cycle_count_t next_look = 0;

    /* The simulator tells people things on standard output: not on the port. */
    port_out = dup(STDOUT_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    avr = avr_make_mcu_by_name("atmega328p");
    avr_init(avr);
    avr->frequency = FREQUENCY;
    avr->vcc = avr->avcc = avr->aref = 5000;
    if (argc != 2 || !load(argv[1]))
        return EXIT_FAILURE;
    avr_ioctl(avr, AVR_IOCTL_UART_SET_FLAGS('0'), &uart_flags); /* no copy for people */
    uart = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), 0);
    adc = avr_io_getirq(avr, AVR_IOCTL_ADC_GETIRQ, 0);
    avr_irq_register_notify(uart + UART_IRQ_OUTPUT, on_uart_output, NULL);
    avr_irq_register_notify(uart + UART_IRQ_OUT_XON, on_uart_room, &uart_has_room);
    avr_irq_register_notify(uart + UART_IRQ_OUT_XOFF, on_uart_room, NULL);
    signal(SIGTERM, on_signal);
    signal(SIGUSR1, on_signal);
    while (!stopped) {
        int state = avr_run(avr);
        unsigned pointer = (unsigned)(avr->data[SPH] << 8 | avr->data[SPL]);

        if (state == cpu_Done || state == cpu_Crashed)
            return EXIT_FAILURE;
        if (pointer != 0 && pointer < lowest)
            lowest = pointer;
        if (avr->cycle >= next_look) {
            if (has_loader)
                wait_for_the_clock();
            look();
            next_look = avr->cycle + avr_usec_to_cycles(avr, LOOK_EVERY_US);
        }
        if (reset) {
            reset = 0;
            press_reset();
        }
    }
    fprintf(stderr, "stack %u\n", avr->ramend - lowest);
    return EXIT_SUCCESS;
}
